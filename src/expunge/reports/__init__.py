"""Pages and plots from run folders. No model is opened here: it renders on a laptop from files alone."""
