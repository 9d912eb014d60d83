if __name__ != "phalanx.configs":
    raise ImportError(f"this folder is imported as phalanx.configs, not as {__name__}: write 'import phalanx.configs'")
