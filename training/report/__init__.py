"""One page of a bundle's evaluation for people: charts, tables, worst errors as pictures. No torch."""
