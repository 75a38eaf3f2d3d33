"""Races replayed in simulated time on the recorded curves of studies that were trained without one."""
