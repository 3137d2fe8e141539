"""A zoo in SQL, with Spark: python examples/spark_metrics.py repository digits_cnn_s"""

import sys

from pyspark.sql import SparkSession

from model_zoos.benchmarks.representations import statistic_names, statistics_table
from model_zoos.builders.catalog import zoo_spec

folder, zoo = sys.argv[1:]
layout = zoo_spec(zoo).layout
spark = SparkSession.builder.getOrCreate()
spark.read.parquet(f"{folder}/metrics/{zoo}-*.parquet").createOrReplaceTempView("states")


def statistics(batches):
    for batch in batches:
        yield from statistics_table(batch, layout).to_batches()


data = spark.read.parquet(f"{folder}/data/{zoo}").select("epoch", "test_acc", "weights")
columns = ", ".join(f"`{name}` double" for name in statistic_names(layout))
data = data.mapInArrow(statistics, f"epoch int, test_acc float, {columns}")
data.createOrReplaceTempView("statistics")

by_setting = spark.sql("""
    SELECT activation, init, learning_rate, dropout, count(*) AS models, avg(test_acc) AS test_acc
    FROM states WHERE epoch = (SELECT max(epoch) FROM states)
    GROUP BY activation, init, learning_rate, dropout ORDER BY test_acc DESC""")
by_epoch = spark.sql("""
    SELECT epoch, avg(`fc2.weight.variance`) AS variance, corr(`fc2.weight.variance`, test_acc) AS r
    FROM statistics GROUP BY epoch ORDER BY epoch""")
by_setting.show()
by_epoch.show()
