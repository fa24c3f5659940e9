"""Grafana dashboards as typed code; `python -m tools.dashboards helm/dashboards` writes them for the chart.

`panels` has the parts of a dashboard, one module per dashboard uses them, `grafana` converts a dashboard to JSON.
"""
