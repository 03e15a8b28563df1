"""What the task imports from its own package."""

GREETING = "from a package"
