from kaggle_evaluation.core.gateway import Gateway


class AIMO3Gateway(Gateway):
    pass
