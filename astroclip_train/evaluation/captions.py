"""What each figure and table of a report shows, and what to look for in it."""

__all__ = ["caption"]

_TEXTS = {
    "headline": """
        Large: {main}, biweight, with bootstrap error. Small: {small}. Bold marks the best
        single-survey value of a column. All on held-out test objects; the frozen head shown is
        fixed in advance, not chosen by its result, and every method is held against the bound of
        the surveys that it sees.""",
    "loss": """
        Training loss (faint: each logged step) and validation loss. Both should fall together; a
        widening gap is overfitting. InfoNCE can report at most log(batch); a gain is what a decoder
        says about the spectrum beyond a full-covariance Gaussian.""",
    "probes": """
        Ridge (solid) and nearest-neighbour (dashed) probes of labelled validation objects: what the
        embedding knows about each label without having been given it. An effective rank that falls
        towards 1 is a collapse; alignment and modality gap should shrink while uniformity becomes
        more negative.""",
    "truth": """
        Test objects; points on the grey line are exact. Points of low S/N (dark) scatter most; a
        slope below one at the edges is regression to the mean.""",
    "residuals": """
        Prediction minus truth. The blue band should be as narrow as the dashed bound and centred on
        zero at every S/N and metallicity; a trend with [Fe/H] is a bias that the mean hides.""",
    "pull": """
        Residual scatter in units of each object's own bound: 1 is the best that an unbiased
        estimate can do. Values below 1 at low S/N come from what the training labels say
        beforehand.""",
    "all_heads": """
        Bias is the median residual; σ its biweight scatter; MAD is scaled to the σ of a Gaussian;
        outliers lie beyond 5 σ; pull σ is the scatter of residual over bound. Errors and S/N bins
        are in metrics.json.""",
    "coverage": """
        Central intervals should contain 68 and 95 % of the true values. More is underconfident,
        less is overconfident. NLL compares heads on the same labels only.""",
    "pit": """
        Where the truth falls in the posterior. Flat, inside the grey band (95 % of the heights of a
        calibrated head), is right; a U shape is overconfident, a hump underconfident, a slope
        biased.""",
    "recall": """
        Each test spectrum of one survey looks for the same star in the gallery of the other. The
        oracle measures every label at the Cramér–Rao bound in both surveys and ranks by whitened
        distance.""",
    "ranks": """
        The share of queries whose right answer is among the first k.""",
    "neighbours": """
        Left the query, right the true partner (thick, pale) under the three spectra ranked first.
        Where the search fails, the answers should still be stars of like parameters. Of long
        spectra only a quarter is shown.""",
    "translation": """
        χ² per pixel is 1 if only the noise of the observed spectrum is left. The rms of the mean
        spectrum is what a prediction without any input would leave.""",
    "information": """
        What a decoder says about the spectrum beyond a Gaussian of all training spectra with their
        full covariance: E log q(x|z) − E log q₀(x) over test objects, the same normalised flux on
        both sides. A lower bound on the information of the embedding, less what the Gaussian knows;
        negative where the decoder knows less.""",
    "translated": """
        Objects at the 20th, 50th and 80th percentile of error. Above: observed and predicted;
        below: their difference between the lines of ± 1σ noise. Lines left in the difference are
        lines that the embedding lost.""",
    "wavelengths": """
        Residuals over all test objects at each wavelength: the median should lie at zero, the band
        inside the dashed noise.""",
    "embedding": """
        {method} of {n:,} test objects. Smooth colour gradients mean that neighbours share the
        parameter; distances between far groups mean nothing.""",
    "timing": """
        Data wait is the share of training time spent waiting for batches; MFU is relative to the
        device's peak.""",
}


def caption(key: str, **values: object) -> str:
    """The caption of that name, on one line, with its placeholders filled."""
    return " ".join(_TEXTS[key].split()).format(**values)
