"""The mathematics: operators, schedules, spectra, the scale-space process and its stages."""
