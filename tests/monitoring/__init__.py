"""What the monitoring endpoints say."""
