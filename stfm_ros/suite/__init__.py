"""The benchmark ``stfm eval --suite``: fixed pairs of several data sets, all methods on the same ones.

    definition   what is measured on: stfm_ros/data/suite.yaml
    readers      a data set as a row of views: two images, and what is known of them
    measures     one method on one view: a row of numbers
    entrants     what is measured: models, classical methods, XFeat, any callable
    runner       every method on every view, kept on disk row by row
    summary      rows to figures with their intervals
    cost         accuracy against cost, a picture
    page         all of it as a page

Shares and AUC are 0 to 1; pixels are those of the images as recorded.
"""
