"""``mpchat client``: print the client library for another language, one source file."""

import click

# The file of each language, inside the package.
CLIENTS = {"csharp": "client/Mpchat.cs", "javascript": "web/mpchat.js"}


@click.command()
@click.argument("language", type=click.Choice(list(CLIENTS)))
def client(language: str) -> None:
    """Print the client library for a language, as in: mpchat client csharp > Mpchat.cs."""
    click.echo(source(language), nl=False)


def source(language: str) -> bytes:
    """Return the library's file: bytes, so that no locale changes a character of it."""
    from importlib.resources import files  # loads tempfile and more, which no other command needs

    return files("mpchat").joinpath(CLIENTS[language]).read_bytes()
