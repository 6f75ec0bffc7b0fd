"""The served application: real Ray Serve, real vLLM, the embedded model, real clients. Deployed once for all."""
