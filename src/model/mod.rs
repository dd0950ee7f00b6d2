//! Networks: functions that add nodes to a graph.
