"""What differences over paired seeds allow to be said: tests, intervals, corrections, power, looks."""
