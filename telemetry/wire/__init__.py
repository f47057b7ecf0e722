"""Packets to events: flows, TCP, taps, feeds, tick to trade, throughput."""
