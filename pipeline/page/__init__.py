"""Pages for people: what a run or a sweep did, in one HTML file each."""
