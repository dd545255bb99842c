"""How a release reaches a fleet wave by wave: plan, states, gates and the next step. Decides only; the cloud acts."""
