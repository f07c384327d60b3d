"""How the running program is seen and steered."""
