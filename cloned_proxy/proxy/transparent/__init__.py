"""Programs that know no proxy, in a slot: names that lead to the gate, and the connections that come by them."""
