"""The jobs: ingest, harvest, train, score, watch, backtest, registry, report and the command line."""
