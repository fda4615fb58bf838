"""How a fine-tuned classifier does on images unlike those it was trained on."""
