import aimo_3_gateway
from kaggle_evaluation.core.gateway import InferenceServer


class AIMO3InferenceServer(InferenceServer):
    def _get_gateway_for_test(self, data_paths):
        return aimo_3_gateway.AIMO3Gateway(data_paths)
