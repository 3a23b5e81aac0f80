"""Jobs of a sweep: composed before they start, watched while they run, and their results afterwards."""
