"""mpchat beside other servers: ``python -m scripts.bench``."""
