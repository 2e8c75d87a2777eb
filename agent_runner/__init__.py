"""Claims tasks from the streams and executes them: scheduler, runner loop, engines and node kinds."""
