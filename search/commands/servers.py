"""Commands that serve dashboards."""

from pathlib import Path

import click

from fold_search.search.commands.answers import new_steps, say
from fold_search.search.commands.completing import complete_study
from fold_search.search.commands.options import database_url, find_study, storage_option
from fold_search.search.study import defaults

host_option = click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")


@click.command("serve")
@click.option(
    "--study",
    "name",
    metavar="NAME",
    shell_complete=complete_study,
    help="Use the MLflow of this study; an error if there is no such study.",
)
@storage_option
@click.option("--mlflow", metavar="URI", help=f"MLflow tracking URI.  [default: the study's, or {defaults.MLFLOW}]")
@host_option
@click.option("--port", default=8080, show_default=True, help="Port to listen on.")
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM file of the certificate; serves with HTTPS.")
@click.option("--key", type=click.Path(path_type=Path), help="PEM file of the certificate's key.")
def serve(
    name: str | None,
    storage: str | None,
    mlflow: str | None,
    host: str,
    port: int,
    certificate: Path | None,
    key: Path | None,
) -> None:
    """Serve the Optuna dashboard and MLflow's UI at one address.

    To let other machines connect, set --host and a password in SEARCH_SERVE_PASSWORD.
    """
    with new_steps() as steps:
        steps.step("loading the Optuna dashboard")
        from fold_search.search.reporting.serve import Address, mlflow_app, optuna_app, serve
        from fold_search.search.study.environment import Secrets, mlflow_uri

        secrets = Secrets.read()
        address = Address(host=host, port=port, password=secrets.serve_password, certificate=certificate, key=key)
        url = find_study(name, storage).url if name else database_url(storage)
        apps = {"": optuna_app(url)}
        steps.step("loading MLflow")
        apps["/mlflow"] = mlflow_app(mlflow_uri(mlflow or _mlflow_uri(name, storage), secrets))
    say(f"Optuna dashboard: {address.url}/\nMLflow UI: {address.url}/mlflow/ (Ctrl-C ends both)")
    serve(apps, address)


@click.command("dashboard")
@click.option(
    "--study", "name", metavar="NAME", shell_complete=complete_study, help="Check first that this study exists."
)
@storage_option
@host_option
@click.option("--port", default=8080, show_default=True, help="Port to listen on.")
def dashboard(name: str | None, storage: str | None, host: str, port: int) -> None:
    """Serve only the Optuna dashboard."""
    with new_steps() as steps:
        steps.step("loading the Optuna dashboard")
        from fold_search.search.reporting.serve import Address, optuna_app, serve
        from fold_search.search.study.environment import Secrets

        address = Address(host=host, port=port, password=Secrets.read().serve_password)
        app = optuna_app(find_study(name, storage).url if name else database_url(storage))
    say(f"Optuna dashboard: {address.url}/ (Ctrl-C ends it)")
    serve({"": app}, address)


@click.command("ui")
@click.option("--study", "name", metavar="NAME", shell_complete=complete_study, help="Use the MLflow of this study.")
@storage_option
@host_option
@click.option("--port", default=5000, show_default=True, help="Port to listen on.")
def ui(name: str | None, storage: str | None, host: str, port: int) -> None:
    """Serve only MLflow's UI."""
    with new_steps() as steps:
        steps.step("loading MLflow")
        from fold_search.search.reporting.serve import Address, mlflow_app, serve
        from fold_search.search.study.environment import Secrets, mlflow_uri

        secrets = Secrets.read()
        address = Address(host=host, port=port, password=secrets.serve_password)
        app = mlflow_app(mlflow_uri(_mlflow_uri(name, storage), secrets))
    say(f"MLflow UI: {address.url}/ (Ctrl-C ends it)")
    serve({"": app}, address)


def _mlflow_uri(name: str | None, storage: str | None) -> str:
    from fold_search.search.study.config import config_from_record

    return config_from_record(find_study(name, storage).record.config).trackers.mlflow.uri if name else defaults.MLFLOW
