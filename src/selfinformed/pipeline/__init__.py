"""A run: its configuration, its folder, and the stages that fill it."""
