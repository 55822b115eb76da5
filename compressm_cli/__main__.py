"""``python -m compressm_cli`` is the same as ``compressm``."""

from compressm_cli.cli.main import main

if __name__ == "__main__":
    main()
