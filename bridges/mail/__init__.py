"""What the bridges for mail share: addresses, the meta frame, the hand-over to 0MQ, and a database with one owner."""
