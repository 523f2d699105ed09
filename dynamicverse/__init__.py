"""DynamicVerse: from any monocular video to a 4D scene."""

__version__ = "0.1.0"
