"""What is tried next, what is refused before it trains, and what is stopped early."""
