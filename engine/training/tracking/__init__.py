"""The epochs of a fold shown by TensorBoard, Weights & Biases or MLflow."""
