"""What more than one room of the package needs."""
