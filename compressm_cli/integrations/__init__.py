"""What other programs ask of models: benchmarks of lm-evaluation-harness, each library imported when it is used."""
