"""Keep the limits of sending that all processes share: the rate of a store, and the connections of a host."""
