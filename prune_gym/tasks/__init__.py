"""What is asked of a network: metrics, losses, which outputs count."""
