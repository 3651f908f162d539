"""What runs in Apache Beam."""
