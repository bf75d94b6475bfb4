"""One thing of a valid data folder, finished run or config is bent; what follows is judged."""
