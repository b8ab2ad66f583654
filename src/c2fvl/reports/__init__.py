"""What a report says: zones, captions, free sentences, findings, and the numbers that a network reads."""
