"""A budget that a program in another language measures: it is handed a file, prints a number."""

import tempfile
from pathlib import Path

import prune_gym

# Anything that can be run will do. This one, in awk, counts the zero bytes and others of the file:
# flash memory that packs zeros away. The last line that is a number is the budget; lines before it
# are for people.
PROGRAM = r"""#!/bin/sh
echo "looking at $1"
od -An -v -tu1 "$1" | awk '
    { for (i = 1; i <= NF; i++) if ($i == 0) zeros++; else others++ }
    END { print others + zeros / 8 }
'
"""

with tempfile.TemporaryDirectory() as folder:
    program = Path(folder) / "flash.sh"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    flash = prune_gym.command_budget(
        f"{program} {{onnx}}",  # the exported network; {pt2} and {safetensors} work, too
        unit="bytes",
        timeout_s=60,
        retries=1,
        deterministic=True,
    )
    problem = prune_gym.make_problem(budgets={flash: "500KB"})
    print(f"{flash.name}: {problem.unpruned_values[0]:,.0f} bytes unpruned, limit {problem.limits}")
    outcome = problem.evaluate(problem.masks_of(problem.kept_counts([0.6] * 8)))
    print(f"cut by 60%: {outcome.values['flash']:,.0f} bytes, feasible {outcome.feasible}")

# The same on the command line:
#   prune-gym prune --budget "command:./flash.sh {onnx}=500K"
