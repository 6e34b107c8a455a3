"""The networks: U-Net, autoencoders, vocoders, discriminators."""
