"""Evaluate a frozen encoder on labelled images: ``python tools/probe.py CONFIG --backbone FILE --data-root DIR``."""

from cmae_mm.cli import guard
from cmae_mm.transfer.probe import probe_main

if __name__ == "__main__":
    guard(probe_main)
