"""What writes the answers: weights in this process, vLLM, or any OpenAI-compatible server. One file each."""
