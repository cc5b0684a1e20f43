"""The model that ships with the package, `models.load("tiny")`, and the script that makes it; MODEL.md measures it."""
