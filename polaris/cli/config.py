"""`polaris config show|check|schema`: a YAML file in, what it means or what is wrong with it out."""

from __future__ import annotations

import typer

from polaris.cli.options import ConfigFile

app = typer.Typer(help="Show, check or describe a run's configuration.", no_args_is_help=True)


@app.command("show", epilog="Example: `polaris config show examples/demo/demo.yaml`")
def show(config: ConfigFile) -> None:
    """Print the configuration with every default and override filled in, as YAML."""
    from polaris.load import dump, load

    print(dump(load(config)), end="")


@app.command("check", epilog="Example: `polaris config check examples/demo/demo.yaml`")
def check(config: ConfigFile) -> None:
    """Check the file and everything that it names, and list the plan; exit 2 with a line a fault."""
    from polaris.run import open_run

    run = open_run(config)
    for instance in run.plan.instances.values():
        needs = f"  after {', '.join(instance.needs)}" if instance.needs else ""
        serves = f"  with {', '.join(instance.services)} served" if instance.services else ""
        on_demand = "  on demand" if instance.on_demand else ""
        print(f"{instance.name}  {instance.digest}{needs}{serves}{on_demand}")
    print(f"{config}: {len(run.plan.instances)} instances, nothing wrong")


@app.command("schema", epilog="Example: `polaris config schema > polaris.schema.json`")
def schema() -> None:
    """Print the configuration's JSON schema, for an editor's completion."""
    import json

    from polaris.load import schema as configuration_schema

    print(json.dumps(configuration_schema(), indent=1))
