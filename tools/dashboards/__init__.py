"""Grafana dashboards as typed code; `python -m tools.dashboards helm/dashboards` writes them for the chart.

`panels` says what a dashboard consists of, one module per dashboard fills it in, `grafana` makes JSON of it.
"""
