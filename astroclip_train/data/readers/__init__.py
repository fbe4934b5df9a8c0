"""One module per survey or published layout: files in, spectra with units, frame and identity out."""
