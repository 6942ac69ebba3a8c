"""What every engine does alike about selection; needs torch alone."""
