"""Tables, migrations, engines and the image store: the only place that opens a database."""
