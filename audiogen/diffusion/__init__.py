"""The diffusion process: noise schedule, denoisers, samplers."""
