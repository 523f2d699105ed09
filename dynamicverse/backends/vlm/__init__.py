"""Vision-language models behind an OpenAI-compatible API: DashScope, or a vLLM service.

What a model answers is data: it is bounded, validated and checked, never executed. Nothing
here knows what is asked; `backends.analysis.openai` and `backends.captioner.qwen` do.
"""

from __future__ import annotations
