"""The coordinator: who is here, what was asked, what came back; and the simulation that starts it all."""
