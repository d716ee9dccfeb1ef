"""What watches the programs, made by code: the table of metrics and the dashboards of Grafana.

`python -m dashboards` writes them where they are checked in, `make check` sees that they are up to
date.
"""
